# SPDX-License-Identifier: Apache-2.0
"""The parts of an image as a software bill of materials: CycloneDX 1.6 in JSON (ECMA-424).

The only importer of cyclonedx.  The same image gives the same bytes: the date is that of the
kernel, the first second of 1970, or that of SOURCE_DATE_EPOCH, and its identity is made of the
image's digest.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from ukl_build.report import facts

IDENTITIES = uuid.UUID("6b1d9d0c-2f5e-4c0a-9f6e-5f0a7d6c1b52")
"""What serial numbers are made under (RFC 9562, version 5)."""

_TYPES = {"linux": ComponentType.OPERATING_SYSTEM}


def _component(one: facts.Component, application: str) -> Component:
    kind = ComponentType.APPLICATION if one.name in (application, facts.INIT) else None
    package = one.package and PackageURL("deb", "debian", one.package, one.package_version)
    # A digest of a tree is none that somebody could compare with a file.
    return Component(
        name=one.name,
        version=one.version or None,
        type=kind or _TYPES.get(one.name, ComponentType.LIBRARY),
        bom_ref=one.name,
        purl=package or None,
        licenses=[LicenseFactory().make_with_expression(one.licence)] if one.licence else (),
        properties=[
            Property(name=f"ukl-build:{name}", value=value)
            for name, value in (("origin", one.origin), ("digest", one.digest))
            if value
        ],
    )


def _time() -> datetime:
    """Return the time of the bill: that of all builds here, unless somebody sets another one."""
    return datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), tz=UTC)


def sbom(report: facts.Report) -> str:
    """Return the bill of materials."""
    image = report.image
    whole = Component(
        name=image.label,
        type=ComponentType.FIRMWARE,
        bom_ref=f"image:{image.label}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=report.digest)],
    )
    parts = [_component(one, image.name) for one in report.components]
    made = Bom(
        components=parts,
        metadata=BomMetaData(component=whole, timestamp=_time()),
        serial_number=uuid.uuid5(IDENTITIES, report.digest),
    )
    made.register_dependency(whole, parts)
    text: str = JsonV1Dot6(made).output_as_string(indent=2)
    return text + "\n"
