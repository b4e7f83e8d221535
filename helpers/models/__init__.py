"""Find, load, quantise, adapt and ask language models."""
