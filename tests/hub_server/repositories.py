"""What the test Hub keeps: repositories with branches of commits, large files by their sha256, and its Xet storage."""

import base64
import fnmatch
import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit. One that went by LFS or Xet is large; of Xet's, the Hub itself has no content."""

    content: bytes | None
    sha256: str
    size: int
    is_large: bool

    @classmethod
    def of(cls, content, is_large=False):
        return cls(content, hashlib.sha256(content).hexdigest(), len(content), is_large)

    @property
    def oid(self):
        """Of the git blob: the file, or a pointer to it."""
        blob = self.sha256.encode() if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.is_large else self.oid


@dataclass
class Repository:
    name: str  # of a data set with "datasets/" before it
    private: bool = False
    branches: dict = field(default_factory=dict)  # name -> ids of its commits, oldest first
    commits: dict = field(default_factory=dict)  # id -> {path: StoredFile}
    messages: list = field(default_factory=list)

    def __post_init__(self):
        self.add("main", {}, "initial commit")

    def add(self, branch, files, message):
        """A commit on a branch; its id."""
        parents = self.branches.setdefault(branch, [])
        sha = hashlib.sha1(f"{self.name} {branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = files
        parents.append(sha)
        self.messages.append(message)
        return sha

    def commit_of(self, revision):
        """The id of a branch's last commit, or of a commit; None if there is neither."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return revision if revision in self.commits else None

    def files(self, revision="main"):
        return self.commits[self.commit_of(revision)]

    def apply(self, branch, operations, large_files):
        """Commits the lines of a commit call."""
        files = dict(self.files(branch))
        message = ""
        for line in operations:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = StoredFile.of(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = StoredFile(large_files.get(value["oid"]), value["oid"], value["size"], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return self.add(branch, files, message)

    def is_ignored(self, path, gitignore):
        """Whether the patterns of a .gitignore, or of the repository's own, name a path."""
        if gitignore is None:
            stored = self.files().get(".gitignore")
            gitignore = stored.content.decode() if stored else ""
        lines = [line.strip() for line in gitignore.splitlines()]
        patterns = [line for line in lines if line and not line.startswith("#")]
        return any(fnmatch.fnmatch(part, pattern) for part in path.split("/") for pattern in patterns)


class XetStorage:
    """A folder that hf_xet itself writes and reads (`casUrl = local:///folder`); this finds a file's Xet hash in it."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @property
    def url(self):
        return f"local://{self.folder.as_posix()}"

    def hash_of(self, sha256):
        """The Xet hash of a file, which the client does not tell the Hub: it stands in the shards."""
        for shard in self.folder.rglob("*.mdb"):
            found = _find_in_shard(shard.read_bytes(), bytes.fromhex(sha256))
            if found:
                return found
        return None


def _find_in_shard(shard, sha256):
    """Of records of 48 bytes: a file's header (hash, flags, number of segments), its segments, its sha256."""
    wanted = (sha256, b"".join(sha256[i : i + 8][::-1] for i in range(0, 32, 8)))
    place = 48
    while place + 48 <= len(shard) and shard[place : place + 32] != b"\xff" * 32:
        file_hash, flags, segments = shard[place : place + 32], *struct.unpack_from("<II", shard, place + 32)
        records = segments * (2 if flags >> 31 & 1 else 1)
        place += 48 * (1 + records)
        if flags >> 30 & 1:
            if shard[place : place + 32] in wanted:
                return "".join(f"{number:016x}" for number in struct.unpack("<4Q", file_hash))
            place += 48
    return None
