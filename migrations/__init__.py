"""Schema migrations; `cloud_app.store.schema` runs them."""
