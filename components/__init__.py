"""The six pipeline steps: a thin KFP wrapper each, over library code that knows no KFP."""
