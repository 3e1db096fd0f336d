"""What the report is made of: tables, figures, one page."""
