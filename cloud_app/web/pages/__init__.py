"""Pages for admins. Each module named here is one page, in the navigation's order."""

from cloud_app.web.pages import fleet as fleet
