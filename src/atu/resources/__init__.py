"""What jobs need of a machine: memory and speed."""
