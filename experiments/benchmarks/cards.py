"""GPUs by the facts that XLA compiles for, so that none has to be there."""

# Of NVIDIA's data sheets and the cards' own answers; what both share, below.
_DIFFERENCES = {
    "h100": {
        "memory_bandwidth": 3_350_000_000_000,
        "device_memory_size": 80_000_000_000,
        "device_description_str": '"NVIDIA H100"',
    },
    "h200": {
        "memory_bandwidth": 4_800_000_000_000,
        "device_memory_size": 140_000_000_000,
        "device_description_str": '"NVIDIA H200"',
    },
}

CARDS = tuple(_DIFFERENCES)

_HOPPER = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
}


def target_config(card: str) -> str:
    """Returns XLA's description of a card, a `GpuTargetConfigProto` as text.

    Args:
      card: one of CARDS.

    Raises:
      ValueError: for another card.
    """
    if card not in _DIFFERENCES:
        raise ValueError(f"unknown card {card!r}: use one of {', '.join(CARDS)}")
    own = dict(_DIFFERENCES[card])
    name = own.pop("device_description_str")
    facts = " ".join(f"{key}: {value}" for key, value in {**_HOPPER, **own}.items())
    facts += " cuda_compute_capability { major: 9 minor: 0 }"
    return (
        f"gpu_device_info {{ {facts} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } '
        f"device_description_str: {name}"
    )
