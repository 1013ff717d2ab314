"""Register: log the judged model to MLflow, make it a version, and let the gate decide on the champion."""
