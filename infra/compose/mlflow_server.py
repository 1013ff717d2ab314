"""Run MLflow with users and passwords, on PostgreSQL, its files in a bucket; the server of compose.yaml.

python3 mlflow_server.py     (its environment is that of compose.yaml; what is secret stands there alone)
"""

import os
from pathlib import Path

AUTHENTICATION = """[mlflow]
default_permission = READ
database_uri = {MLFLOW_AUTH_DATABASE_URI}
admin_username = {MLFLOW_ADMIN}
admin_password = {MLFLOW_ADMIN_PASSWORD}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def write_authentication(path: Path) -> None:
    """Write the file that MLflow reads its administrator and its users' database from."""
    os.umask(0o077)
    path.write_text(AUTHENTICATION.format(**os.environ))
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(path)


def make_bucket(destination: str) -> None:
    """Make the bucket of s3://bucket/prefix, if there is none."""
    import boto3
    from botocore.exceptions import ClientError

    storage, name = boto3.client("s3"), destination.removeprefix("s3://").partition("/")[0]
    try:
        storage.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        storage.create_bucket(Bucket=name)


def main() -> None:
    """Become the server, which takes its stores from MLFLOW_BACKEND_STORE_URI and MLFLOW_ARTIFACTS_DESTINATION."""
    write_authentication(Path("/tmp/authentication.ini"))
    make_bucket(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    command = ["mlflow", "server", "--app-name", "basic-auth", "--workers", "2", "--host", "0.0.0.0", "--port", "5000"]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
