"""Make the MLflow users that steps and readers come as, or give them the passwords that their Secrets hold now.

ADMIN, STEPS and READER, each with _USERNAME and _PASSWORD, say who; MLFLOW_TRACKING_URI says where.
"""

import os
import sys

import requests


def main() -> int:
    """Exit code: 0 once both users have their passwords, 1 with what MLflow said."""
    users = {name: (os.environ[f"{name}_USERNAME"], os.environ[f"{name}_PASSWORD"]) for name in ("STEPS", "READER")}
    admin = os.environ["ADMIN_USERNAME"], os.environ["ADMIN_PASSWORD"]
    api = os.environ["MLFLOW_TRACKING_URI"].rstrip("/") + "/api/2.0/mlflow/users"
    for username, password in users.values():
        content = {"username": username, "password": password}
        answer = requests.post(f"{api}/create", json=content, auth=admin, timeout=30)
        if "RESOURCE_ALREADY_EXISTS" in answer.text:
            answer = requests.patch(f"{api}/update-password", json=content, auth=admin, timeout=30)
        if not answer.ok:
            print(f"user {username}: MLflow answers {answer.status_code}: {answer.text[:200]}", file=sys.stderr)
            return 1
        print(f"user {username} has the password of its Secret")
    return 0


if __name__ == "__main__":
    sys.exit(main())
