"""Use case: tell an unknown tenant or code in the filter of a list from a list that is empty."""

from dataclasses import dataclass

from cloud.fabric.errors import NotFound
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.tenants import TenantStore
from protocol.ids import CodeId, TenantId


@dataclass(frozen=True, kw_only=True)
class ListFilters:
    """Checks the filters of lists. An empty filter matches every object."""

    tenants: TenantStore
    codes: CodeStore

    async def check(self, *, tenant: str = "", code: str = "") -> None:
        """Check that tenant and code exist. Raises NotFound."""
        if tenant and await self.tenants.find(TenantId(tenant)) is None:
            raise NotFound("no such tenant")
        if code and await self.codes.find(CodeId(code)) is None:
            raise NotFound("no such code")
