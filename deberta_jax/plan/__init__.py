"""What a run would need on devices that are not there: memory, messages between chips, time."""
