"""Records that hypothesis makes up."""

from __future__ import annotations

from hypothesis import strategies as st

from autotune.records import Outcome, RequestRecord

stamps = st.floats(min_value=0, max_value=1e5, allow_nan=False)
durations = st.none() | st.floats(min_value=1e-9, max_value=1e3)
counts = st.none() | st.integers(min_value=1, max_value=10_000)


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    """Any record: stamps in their order, the rest as it comes."""
    intended, written, *times = sorted(draw(st.lists(stamps, min_size=3, max_size=20)))
    finished = times.pop()
    return RequestRecord(
        index=draw(st.integers(0, 1_000_000)),
        intended_at=intended,
        outcome=draw(st.sampled_from(Outcome)),
        written_at=draw(st.sampled_from([None, written])) if not times else written,
        first_content_at=times[0] if times else None,
        finished_at=finished,
        chunk_times=tuple(times),
        status=draw(st.sampled_from([None, 200, 503])),
        error=draw(st.text(max_size=20)),
        upstream=draw(st.sampled_from(["", "127.0.0.1:11501", "127.0.0.1:11502"])),
        connected=draw(st.booleans()),
        done_reason=draw(st.sampled_from(["", "stop", "length"])),
        prompt_eval_count=draw(counts),
        eval_count=draw(counts),
        total_duration_s=draw(durations),
        load_duration_s=draw(durations),
        prompt_eval_duration_s=draw(durations),
        eval_duration_s=draw(durations),
    )
