"""The user's own commands: what lets a machine's disks stand still, and what makes a view of one moment of them."""
