"""The parameters: sections, checks across them, schema, search spaces, the grid's cells."""
