"""How a text is folded, searched for a term and read, by the words of all language packs."""
