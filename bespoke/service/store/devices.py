"""Devices."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from bespoke.service.orm import Device
from bespoke.service.store.database import Database, found, insert, new_id

__all__ = ["Devices"]


class Devices(Database):
    """Devices, each a name with a profile."""

    def add_device(self, name: str, profile: dict[str, Any], digest: str) -> tuple[Device, bool]:
        """Keep a device; the same name and profile again is the same device.

        Returns:
            The device, and whether it is new.
        """
        with self._write() as session:
            new = insert(
                session,
                Device,
                id=new_id("dev"),
                name=name,
                profile=profile,
                profile_digest=digest,
                created_at=self._now(),
            )
            same = sa.select(Device).where(Device.name == name, Device.profile_digest == digest)
            return session.scalars(same).one(), new

    def device(self, device_id: str) -> Device:
        """A device.

        Raises:
            NotFound: There is no such device.
        """
        with self._read() as session:
            return found(session.get(Device, device_id), "device", device_id)

    def devices(self) -> list[Device]:
        """All devices, oldest first."""
        with self._read() as session:
            return list(session.scalars(sa.select(Device).order_by(Device.created_at, Device.id)))
