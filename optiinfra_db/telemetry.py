"""OpenTelemetry: a span for each call of a generated function, and the trace a run belongs to.

`OptiInfraInstrumentor` is imported when it is asked for, so that this module can be imported
without the extra `otel`, and never imports OpenTelemetry where the application does not.
docs/guides/telemetry.md says what a span holds, and what it never does.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optiinfra_db._instrumentor import OptiInfraInstrumentor

__all__ = ["OptiInfraInstrumentor", "current_trace_id"]


def current_trace_id() -> str | None:
    """Return the id of the trace that the current span belongs to, as 32 hexadecimal digits.

    None where there is no current span, or the application does not use OpenTelemetry. A trace that
    was not sampled has an id too.
    """
    if sys.modules.get("opentelemetry.trace") is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415

    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name != "OptiInfraInstrumentor":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from optiinfra_db._instrumentor import OptiInfraInstrumentor  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{error.msg}, which {name} needs: pip install 'optiinfra-db[otel]'",
                name=error.name,
            ) from None
        return OptiInfraInstrumentor
