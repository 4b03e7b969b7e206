"""The API's JSON, described once.

The web builds these structs, the SDK reads them, and ``/openapi`` is written from them.
"""

from genie.api_types.base import *  # noqa: F403  # one package, whose parts are no API
from genie.api_types.fleet import *  # noqa: F403
from genie.api_types.inference import *  # noqa: F403
from genie.api_types.work import *  # noqa: F403
