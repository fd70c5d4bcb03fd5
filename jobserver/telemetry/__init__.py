"""What the server says of itself: one call a fact of a job's life, in the domain's words.

Log events, metrics and their names are declared here and nowhere else. Labels are bounded: type, queue, status
and outcome, never a job id. Knows neither store nor stream: gauges read from callables that it is given.
"""

from jobserver.telemetry.telemetry import Telemetry

__all__ = ["Telemetry"]
