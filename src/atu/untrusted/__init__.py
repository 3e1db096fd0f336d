"""What somebody else may have written, read within limits or refused with a reason."""
