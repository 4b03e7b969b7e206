"""Commands that people copy from a page or an answer."""

from cloud_app.settings import CloudSettings


def join_command(settings: CloudSettings, host_url: str, token: str) -> str:
    """What to type on a machine that shall join this fleet."""
    url = (settings.public_url or host_url).rstrip("/")
    return (
        f"pip install 'genie-fleet[worker]' && genie worker join {url} --token {token}"
    )
