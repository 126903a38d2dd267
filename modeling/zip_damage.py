"""Whether a zip, such as `torch.save` writes, is still what was written; `torch.load` does not compare checksums."""

import zipfile
from pathlib import Path


def zip_damage(path: Path) -> str | None:
    """What is wrong with a zip of uncompressed entries; None if each of them agrees with its CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = next((e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
            if packed:  # a small file could unpack to any size
                return f"{packed} is compressed"
            if sum(entry.file_size for entry in entries) > path.stat().st_size:  # they would be read again and again
                return "its entries overlap"
            damaged = archive.testzip()
            return f"{damaged} differs from its checksum" if damaged else None
    except Exception as error:  # zipfile raises half a dozen types on a damaged directory
        return str(error) or repr(error)
