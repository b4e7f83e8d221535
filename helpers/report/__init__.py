"""Tables, figures and the HTML report, from results.json alone."""
