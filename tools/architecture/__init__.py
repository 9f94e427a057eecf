"""The picture of the rooms and the rule of their imports, read from the code."""
