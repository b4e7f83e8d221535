"""One YAML file for each language in which questions and answers about a glossary are worded."""
