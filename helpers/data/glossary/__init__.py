"""One source of examples: a glossary, and a chat model that writes conversations about it."""
