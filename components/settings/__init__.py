"""What decides, beside data and code, which model comes out: noted once for all steps that compare or keep it."""
