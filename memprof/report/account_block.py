"""Where the memory of a CUDA device was, as one sum: driver, process, allocator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from memprof.model.memory import Account
from memprof.report.page import Page, indented
from memprof.report.wording import size

if TYPE_CHECKING:
    from rich.console import RenderableType

_INDENT = 2


def account_block(device: str, accounts: Sequence[Account], page: Page) -> Iterator[RenderableType]:
    """Lay out the last account of a device for which the driver was asked.

    Args:
        device: The device.
        accounts: Its accounts in order of time.
        page: The page it is set on.

    Yields:
        A heading and the sum; nothing where the driver was never asked.
    """
    account = last_account(accounts)
    if account is None:
        return
    yield page.heading(account_title(device, account))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for depth, label, nbytes in account_rows(account):
        table.add_row(page.text("  " * depth + label, "not dim" if depth < 2 else "dim"), page.text(size(nbytes)))
    yield indented(table, _INDENT)


def last_account(accounts: Sequence[Account]) -> Account | None:
    """The last account for which the driver was asked, or None."""
    return next((account for account in reversed(accounts) if account.driver_used_bytes is not None), None)


def account_title(device: str, account: Account) -> str:
    """What the sum is about: `Where the memory of cuda:0 was after iteration 11`."""
    when = "" if account.iteration is None else f" after iteration {account.iteration}"
    return f"Where the memory of {device} was{when}"


def account_rows(account: Account) -> list[tuple[int, str, int | None]]:
    """The sum as rows: depth, what it is, bytes or None where unknown. Rows of one depth add up to their parent."""
    state = account.state
    private = state.private_pool_bytes
    rows: list[tuple[int, str, int | None]] = [
        (0, f"used on the device, of {size(state.driver_total_bytes)}", account.driver_used_bytes),
        (1, "this process", state.process_bytes),
        (2, "reserved by the caching allocator", state.reserved_bytes),
        (3, "allocated", state.allocated_bytes),
    ]
    if account.awaiting_free_bytes:
        rows.append((3, "freed, in use by another stream still", account.awaiting_free_bytes))
    rows += [
        (3, "free in segments partly in use", state.inactive_split_bytes),
        (3, "free segments (`empty_cache` gives them back)", account.releasable_bytes),
    ]
    if private:
        rows.append((3, "of all this, in private pools (CUDA graphs)", private))
    rows.append((2, "context and libraries", account.outside_allocator_bytes))
    if account.unattributed_bytes is not None:
        rows.append((1, "context, libraries or other processes", account.unattributed_bytes))
    else:
        rows.append((1, "other processes", account.other_processes_bytes))
    return rows
