"""What the test Hub answers to each call, method by method."""

import hashlib
import json
import re
import time
from urllib.parse import parse_qs

from .repositories import Repository

DATASETS = "datasets/"  # before the names of data sets


class Stop(Exception):  # noqa: N818 - of an answer, not a mistake
    """An answer that is not 200."""

    def __init__(self, status, message="", code=None, headers=None):
        self.status, self.message, self.headers = status, message, dict(headers or {})
        if code:
            self.headers["X-Error-Code"] = code


class Answers:
    """The methods that ROUTES names; each takes the request's body and what its path says."""

    # Who asks, and for what

    def user(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.users:
            raise Stop(401, "Invalid credentials in Authorization header")
        return self.server.users.get(token)

    def repository(self, name, write=False):
        user, owner = self.user(), name.removeprefix(DATASETS).split("/")[0]
        found = self.server.repositories.get(name)
        if found is None or (found.private and user != owner):
            raise Stop(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner and self.query.get("create_pr") != "1":
            raise Stop(403 if user else 401, f"{user} may not write to {name}")
        return found

    def commit(self, repository, revision):
        sha = repository.commit_of(revision)
        if sha is None:
            raise Stop(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    # Answers

    def whoami(self, _):
        if self.user() is None:
            raise Stop(401, "Invalid username or password.")
        return {"type": "user", "name": self.user(), "orgs": []}

    def create(self, body):
        asked, user = json.loads(body), self.user()
        if user is None:
            raise Stop(401, "Invalid username or password.")
        owner = asked.get("organization") or user
        name = (DATASETS if asked.get("type") == "dataset" else "") + f"{owner}/{asked['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repositories:
            exists = {"error": "You already created this model repo", "url": url}
            return 409, json.dumps(exists).encode(), {}
        if owner != user:
            raise Stop(403, f"You don't have the rights to create a model under the namespace {owner}")
        new = Repository(name, asked.get("visibility") == "private")
        self.server.repositories[name] = new
        return {"url": url, "name": name.removeprefix(DATASETS)}

    def delete(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.user()}/{asked['name']}"
        self.repository(name, write=True)
        del self.server.repositories[name]
        return {}

    def validate_yaml(self, body):
        starts_well = json.loads(body)["content"].startswith("---\n")
        return {"errors": [] if starts_well else [{"message": "no metadata"}], "warnings": []}

    def info(self, _, name, revision="main"):
        repository = self.repository(name)
        sha = self.commit(repository, revision)
        siblings = [{"rfilename": path} for path in repository.files(sha)]
        name = name.removeprefix(DATASETS)
        return {"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings}

    def refs(self, _, name):
        branches = self.repository(name).branches.items()
        listed = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": commits[-1]} for b, commits in branches]
        return {"branches": listed, "converts": [], "tags": []}

    def branch(self, _, name, branch):
        repository = self.repository(name, write=True)
        if branch in repository.branches:
            raise Stop(409, "Reference already exists")
        repository.branches[branch] = list(repository.branches["main"])
        return {}

    def tree(self, _, name, revision, folder=None):
        repository = self.repository(name)
        files = repository.files(self.commit(repository, revision))
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(prefix)]
        if folder and not inside:
            raise Stop(404, f"{folder} does not exist", "EntryNotFound")
        if self.query.get("recursive", "").lower() not in ("true", "1"):
            inside = [prefix + path.removeprefix(prefix).split("/")[0] for path in inside]
        return self.entries(files, dict.fromkeys(inside))

    def paths_info(self, body, name, revision):
        repository = self.repository(name)
        files = repository.files(self.commit(repository, revision))
        return self.entries(files, parse_qs(body.decode())["paths"])

    def entries(self, files, paths):
        entries = []
        for path in paths:
            file = files.get(path)
            if file is None and any(other.startswith(f"{path}/") for other in files):
                entries.append({"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()})
            if file is None:
                continue
            entry = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
            if file.is_large:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
                entry |= {"xetHash": xet_hash} if (xet_hash := self.server.xet.hash_of(file.sha256)) else {}
            entries.append(entry)
        return entries

    def preupload(self, body, name, revision):
        repository = self.repository(name, write=True)
        sha = self.commit(repository, revision)
        asked = json.loads(body)
        answers = []
        for file in asked["files"]:
            path, old = file["path"], repository.files(sha).get(file["path"])
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(self.server.large_suffixes) else "regular",
                    "shouldIgnore": repository.is_ignored(path, asked.get("gitIgnore")),
                    **({"oid": old.etag} if old else {}),
                }
            )
        return {"files": answers}

    def batch(self, body, name):
        self.repository(name, write=True)
        return {"objects": [self.upload_action(item) for item in json.loads(body)["objects"]]}

    def upload_action(self, item):
        if item["oid"] in self.server.large_files:
            return item
        url, size = f"{self.server.url}/lfs/{item['oid']}", self.server.part_size
        upload = {"href": url}
        if size is not None:
            parts = range(1, -(-item["size"] // size) + 1)
            header = {"chunk_size": str(size), **{str(part): f"{url}/{part}" for part in parts}}
            upload = {"href": f"{url}/complete", "header": header}
        return item | {"actions": {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}}

    def put(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Stop(400, "content does not match its sha256")
        self.server.large_files[oid] = body
        return {}

    def put_part(self, body, oid, part):
        self.server.parts[oid, int(part)] = body
        return 200, b"", {"ETag": hashlib.md5(body).hexdigest()}

    def complete(self, body, oid):
        parts = [self.server.parts[oid, part["partNumber"]] for part in json.loads(body)["parts"]]
        return self.put(b"".join(parts), oid)

    def verify(self, body):
        asked = json.loads(body)
        if len(self.server.large_files.get(asked["oid"], b"")) != asked["size"]:
            raise Stop(400, "not uploaded")
        return {}

    def xet_token(self, _, name, access, revision):
        self.repository(name, write=access == "write")
        expires = int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.server.xet.url, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": expires}
        body = {"accessToken": "t", "exp": expires, "casUrl": self.server.xet.url}
        return 200, json.dumps(body).encode(), headers

    def post_commit(self, body, name, revision):
        repository = self.repository(name, write=True)
        self.commit(repository, revision)
        operations = [json.loads(line) for line in body.splitlines()]
        for line in operations:
            oid = line["value"].get("oid")
            if line["key"] == "lfsFile" and oid not in self.server.large_files and not self.server.xet.hash_of(oid):
                raise Stop(400, f"{line['value']['path']} was never uploaded")
        branch, answer = revision, {}
        if self.query.get("create_pr") == "1":
            number = sum(name.startswith("refs/pr/") for name in repository.branches) + 1
            branch = f"refs/pr/{number}"
            repository.branches[branch] = list(repository.branches[revision])
            answer = {"pullRequestUrl": f"{self.server.url}/{name}/discussions/{number}"}
        sha = repository.apply(branch, operations, self.server.large_files)
        return answer | {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"}

    def resolve(self, _, name, revision, path):
        repository = self.repository(name)
        sha = self.commit(repository, revision)
        file = repository.files(sha).get(path)
        if file is None:
            raise Stop(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        content = file.content or b""
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if file.is_large:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": file.size}
            xet_hash = self.server.xet.hash_of(file.sha256)
            if xet_hash:
                kind = "" if name.startswith(DATASETS) else "models/"
                route = f"{self.server.url}/api/{kind}{name}/xet-read-token/{sha}"
                headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{route}>; rel="xet-auth"'}
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start is None:
            return 200, content, headers
        begin = int(start[1])
        headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return 206, content[begin:], headers


_NAME = r"(datasets/[^/]+/[^/]+|[^/]+(?:/[^/]+)?)"  # /api/datasets/… comes as /api/models/datasets/…
_REVISION = "(refs/[^/]+/[^/]+|[^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", Answers.whoami),
    ("POST", "/api/repos/create", Answers.create),
    ("DELETE", "/api/repos/delete", Answers.delete),
    ("POST", "/api/validate-yaml", Answers.validate_yaml),
    ("GET", f"/api/models/{_NAME}/revision/(.+)", Answers.info),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}(?:/(.+))?", Answers.tree),
    ("POST", f"/api/models/{_NAME}/paths-info/{_REVISION}", Answers.paths_info),
    ("GET", f"/api/models/{_NAME}/refs", Answers.refs),
    ("POST", f"/api/models/{_NAME}/branch/(.+)", Answers.branch),
    ("POST", f"/api/models/{_NAME}/preupload/(.+)", Answers.preupload),
    ("POST", f"/api/models/{_NAME}/commit/(.+)", Answers.post_commit),
    ("GET", f"/api/models/{_NAME}/xet-(write|read)-token/(.+)", Answers.xet_token),
    ("GET", f"/api/models/{_NAME}", Answers.info),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", Answers.batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Answers.put),
    ("PUT", r"/lfs/([0-9a-f]{64})/(\d+)", Answers.put_part),
    ("POST", "/lfs/([0-9a-f]{64})/complete", Answers.complete),
    ("POST", "/lfs/verify", Answers.verify),
    ("GET HEAD", f"/{_NAME}/resolve/{_REVISION}/(.+)", Answers.resolve),
)
