"""One source of examples: records of several holders, de-identified and joined."""
