"""Dashboards, alert rules and their provisioning. The JSON is made by `dashboards.py`; Grafana reads files alone."""
