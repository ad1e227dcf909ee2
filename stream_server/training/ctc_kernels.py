"""The two Triton kernels of :mod:`stream_server.training.ctc`: one program a row.

``scores`` is [rows, frames, block + 2]: state s of a frame lies at s + 2, so that a state can read
its two predecessors. ``following`` holds two frames, turn by turn, shifted the other way.
"""

# Triton reads its kernels' source, and its names are not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

_NEVER = tl.constexpr(-1e30)


@triton.jit
def _add_logs(a, b, c):
    top = tl.maximum(a, tl.maximum(b, c))
    return top + tl.log(tl.exp(a - top) + tl.exp(b - top) + tl.exp(c - top))


@triton.jit
def forward_kernel(
    logs,
    classes,
    skips,
    counts,
    lengths,
    scores,
    totals,
    frames: tl.constexpr,
    vocabulary: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Walk the frames forwards: log-probability of each state after each frame, and the row's."""
    row = tl.program_id(0)
    count = tl.load(counts + row)
    length = tl.load(lengths + row)
    state = tl.arange(0, block)
    inside = state < 2 * length + 1
    kind = tl.load(classes + row * width + state, mask=state < width, other=0)
    skip = tl.load(skips + row * width + state, mask=state < width, other=0) != 0
    log = logs + row * frames * vocabulary
    mine = scores + row * frames * (block + 2) + 2
    said = tl.load(log + kind, mask=inside, other=_NEVER)
    tl.store(mine + state, tl.where(inside & (state < 2), said, _NEVER))
    for frame in range(1, frames):
        tl.debug_barrier()
        before = mine + (frame - 1) * (block + 2)
        stay = tl.load(before + state)
        step = tl.load(before + state - 1)
        leap = tl.where(skip, tl.load(before + state - 2), _NEVER)
        said = tl.load(log + frame * vocabulary + kind, mask=inside, other=_NEVER)
        now = tl.maximum(_add_logs(stay, step, leap) + said, _NEVER)
        tl.store(
            mine + frame * (block + 2) + state,
            tl.where(inside, now, _NEVER),
            mask=(state >= 0) & (frame < count),
        )
    tl.debug_barrier()
    last = mine + (count - 1) * (block + 2)
    ends = tl.load(last + 2 * length)
    word = tl.load(last + 2 * length - 1)
    top = tl.maximum(ends, word)
    total = top + tl.log(tl.exp(ends - top) + tl.exp(word - top))
    tl.store(totals + row, tl.where(length > 0, total, ends))


@triton.jit
def backward_kernel(
    logs,
    classes,
    skips,
    counts,
    lengths,
    scores,
    totals,
    posteriors,
    following,
    frames: tl.constexpr,
    vocabulary: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Walk the frames backwards: the posterior of each state at each frame."""
    row = tl.program_id(0)
    count = tl.load(counts + row)
    length = tl.load(lengths + row)
    total = tl.load(totals + row)
    state = tl.arange(0, block)
    inside = state < 2 * length + 1
    kind = tl.load(classes + row * width + state, mask=state < width, other=0)
    leaps = tl.load(skips + row * width + state + 2, mask=state + 2 < width, other=0) != 0
    log = logs + row * frames * vocabulary
    mine = scores + row * frames * (block + 2) + 2
    next_frames = following + row * 2 * (block + 2)
    out = posteriors + row * frames * width
    ending = (state == 2 * length) | ((state == 2 * length - 1) & (length > 0))
    # What follows a state, without what is said at its own frame.
    last = tl.where(ending, 0.0, _NEVER)
    after = last
    for back in range(frames):
        frame = frames - 1 - back
        # The walk begins at the row's own last frame.
        after = tl.where(frame >= count - 1, last, after)
        here = tl.load(mine + frame * (block + 2) + state)
        share = tl.exp(here + after - total)
        share = tl.where(inside, share, 0.0)
        tl.store(
            out + frame * width + state, tl.where(frame < count, share, 0.0), mask=state < width
        )
        said = tl.load(log + frame * vocabulary + kind, mask=inside, other=_NEVER)
        turn = next_frames + (frame % 2) * (block + 2)
        tl.store(turn + state, tl.where(inside, tl.maximum(after + said, _NEVER), _NEVER))
        tl.debug_barrier()
        stay = tl.load(turn + state)
        step = tl.load(turn + state + 1)
        leap = tl.where(leaps, tl.load(turn + state + 2), _NEVER)
        after = tl.where(inside, tl.maximum(_add_logs(stay, step, leap), _NEVER), _NEVER)


__all__ = ["backward_kernel", "forward_kernel"]
