# SPDX-License-Identifier: Apache-2.0
"""An OCI image that carries a kernel: for registries, urunc and KubeVirt.

The image has one layer with ``/boot/kernel``, ``/boot/initrd`` if there is one, and
``/urunc.json``.  The same image gives the same bytes.  Sources: OCI Image Format Specification 1.0
(image layout, manifest, configuration, pre-defined annotation keys); urunc's "Building/Packaging
unikernels"; KubeVirt's API (``V1KernelBootContainer``).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

from ukl_build.export.subject import INITRD, KERNEL, Subject
from ukl_build.image import Protocol

CREATED = "1970-01-01T00:00:00Z"
MEDIA = "application/vnd.oci.image"
BLOBS = "blobs/sha256"


def labels(subject: Subject) -> dict[str, str]:
    """Return what is said of the image, for people and for urunc."""
    image = subject.image
    urunc = {
        "unikernelType": "linux",
        "hypervisor": "qemu",
        "binary": f"/{KERNEL}",
        # What our init is told of, it is told by files.
        "cmdline": subject.cmdline,
        **({"initrd": f"/{INITRD}"} if INITRD in subject.boot else {}),
    }
    licences = sorted({f"({one})" if " OR " in one else one for one in image.licences.values()})
    return {
        "org.opencontainers.image.title": subject.name,
        "org.opencontainers.image.created": CREATED,
        **({"org.opencontainers.image.licenses": " AND ".join(licences)} if licences else {}),
        **{f"com.urunc.unikernel.{name}": value for name, value in urunc.items()},
    }


def _layer(subject: Subject, said: Mapping[str, str]) -> bytes:
    """Return a tar archive of the image's files, all root's and without a time of day."""
    # urunc decodes each value.
    urunc = {
        name: base64.b64encode(value.encode()).decode()
        for name, value in said.items()
        if name.startswith("com.urunc.")
    }
    found = {name: path.read_bytes() for name, path in subject.boot.items()}
    found["urunc.json"] = json.dumps(urunc, indent=2).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        boot = tarfile.TarInfo("boot")
        boot.type, boot.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(boot)
        for name, data in found.items():
            one = tarfile.TarInfo(name)
            one.size, one.mode = len(data), 0o644
            tar.addfile(one, io.BytesIO(data))
    return archive.getvalue()


def layout(subject: Subject, tag: str) -> dict[str, bytes]:
    """Return the files of an image layout by their paths in it; the last names all before it.

    :param tag: of the image in there.
    :raise OSError: if something cannot be read.
    """
    found: dict[str, bytes] = {}

    def put(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        found[f"{BLOBS}/{digest}"] = data
        return {"mediaType": f"{MEDIA}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    def put_json(kind: str, what: Mapping[str, object]) -> dict[str, Any]:
        return put(kind, json.dumps(what, sort_keys=True).encode())

    said = labels(subject)
    layer = _layer(subject, said)
    config = put_json(
        "config.v1+json",
        {
            "created": CREATED,
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Labels": said,
                "Cmd": list(subject.image.app.argv),
                "ExposedPorts": {
                    f"{port.guest}/{port.proto.value}": {} for port in subject.image.ports
                },
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
            "history": [{"created": CREATED, "created_by": "ukl export --format oci"}],
        },
    )
    manifest = put_json(
        "manifest.v1+json",
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": config,
            "layers": [put("layer.v1.tar+gzip", gzip.compress(layer, mtime=0))],
            "annotations": said,
        },
    )
    named = {**manifest, "annotations": {"org.opencontainers.image.ref.name": tag}}
    index = {"schemaVersion": 2, "manifests": [named]}
    found["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}\n'
    found["index.json"] = f"{json.dumps(index, indent=2)}\n".encode()
    return found


def virtual_machine(subject: Subject, reference: str) -> str:
    """Return KubeVirt's VirtualMachine, as JSON, which kubectl takes as well as YAML.

    Each disk is a claim of its own name, which ``virtctl image-upload`` fills.

    :param reference: under which a registry has the image.
    """
    vm = subject.vm
    disks = [one.disk.name for one in subject.found.disks if one.disk]
    ports = [
        {"port": port.guest, "protocol": "TCP" if port.proto is Protocol.TCP else "UDP"}
        for port in subject.image.ports
    ]
    # Names of Kubernetes have no '_'.
    name = subject.name.replace("_", "-").replace(".", "-")
    container = {
        "image": reference,
        "kernelPath": f"/{KERNEL}",
        **({"initrdPath": f"/{INITRD}"} if INITRD in subject.boot else {}),
    }
    domain = {
        "machine": {"type": "q35"},
        "cpu": {"cores": vm.cpus},
        "memory": {"guest": f"{vm.memory_mib}Mi"},
        "firmware": {"kernelBoot": {"container": container, "kernelArgs": subject.cmdline}},
        "devices": {
            "rng": {},
            "disks": [{"name": one, "disk": {"bus": "virtio"}} for one in disks],
            "interfaces": [
                {"name": "default", "masquerade": {}, **({"ports": ports} if ports else {})}
            ],
        },
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "domain": domain,
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [
                {"name": one, "persistentVolumeClaim": {"claimName": f"{name}-{one}"}}
                for one in disks
            ],
        },
    }
    found = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"runStrategy": "RerunOnFailure", "template": template},
    }
    return json.dumps(found, indent=2) + "\n"
