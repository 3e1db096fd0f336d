"""The tables, figures and page of the report."""
