"""What `fusion submit`, `schedule` and `runs` are made of: a client of the Kubeflow Pipelines API and its commands."""
