"""Thin Linen modules over ops: they hold parameters, name their axes, and call the arithmetic."""
