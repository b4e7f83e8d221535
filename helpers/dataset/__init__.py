"""From a glossary to training and test conversations."""
