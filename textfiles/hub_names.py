"""Names of repositories on the Hugging Face Hub."""

import re

_NAME = re.compile(r"(?!.*(?:\.\.|--))\w[\w.-]{0,95}/\w[\w.-]{0,95}(?<![.-])(?<!\.git)", re.ASCII)


def is_hub_name(name: str) -> bool:
    """Whether a text has the form `OWNER/NAME` of a hub repository. Whether the hub has it is another question."""
    return _NAME.fullmatch(name) is not None
