"""Makes an engine: resolves options, finds the device, sizes memory, joins the parts."""
