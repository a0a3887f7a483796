"""topokit."""
