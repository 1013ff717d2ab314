"""The pipelines that join the steps, and the `fusion` command line over them."""
