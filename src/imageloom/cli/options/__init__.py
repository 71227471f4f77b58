"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from imageloom.cli.options.bounds import (
    limit_options,
    memory_option,
    tile_option,
)
from imageloom.cli.options.connection import connect_options
from imageloom.cli.options.encoding import document_options, operators_option, outputs_option, recipe_options
from imageloom.cli.options.files import (
    accept_host_keys_option,
    adopt_option,
    exclude_option,
    if_exists_option,
    in_place_option,
    include_option,
    links_option,
    list_options,
    name_option,
    prune_options,
    retry_failed_option,
    shard_option,
)
from imageloom.cli.options.records import (
    durable_option,
    health_option,
    json_option,
    ledger_option,
    otlp_options,
    past_ledger_option,
    quiet_option,
    verbose_option,
)
from imageloom.cli.options.roots import check_roots
from imageloom.cli.options.sandbox import (
    sandbox_of,
    sandbox_of_service,
    sandbox_of_worker,
    sandbox_options,
    sandbox_options_of_service,
    sandbox_options_of_worker,
)
from imageloom.cli.options.values import PageChoice, Quantity

__all__ = [
    "PageChoice",
    "Quantity",
    "accept_host_keys_option",
    "adopt_option",
    "check_roots",
    "connect_options",
    "document_options",
    "durable_option",
    "exclude_option",
    "health_option",
    "if_exists_option",
    "in_place_option",
    "include_option",
    "json_option",
    "ledger_option",
    "limit_options",
    "links_option",
    "list_options",
    "memory_option",
    "name_option",
    "operators_option",
    "otlp_options",
    "outputs_option",
    "past_ledger_option",
    "prune_options",
    "quiet_option",
    "recipe_options",
    "retry_failed_option",
    "sandbox_of",
    "sandbox_of_service",
    "sandbox_of_worker",
    "sandbox_options",
    "sandbox_options_of_service",
    "sandbox_options_of_worker",
    "shard_option",
    "tile_option",
    "verbose_option",
]
