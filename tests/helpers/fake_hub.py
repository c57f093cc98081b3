"""A Hugging Face hub on this machine, with as much of its web interface as cotap_mm needs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import importlib
import json
import re
import threading
from urllib.parse import unquote, urlsplit

_ERRORS = {  # code in the header -> status
    'RepoNotFound': 401,
    'GatedRepo': 403,
    'RevisionNotFound': 404,
    'EntryNotFound': 404,
}


class FakeHub:
    """Repositories of a hub.

    Attributes:
        repos (dict): Repository -> files of its main branch, name -> bytes.
        commits (dict): Repository and an earlier commit -> its files.
        gated (set): Repositories to which nobody has access.
        private (set): Repositories that have been created as private.
        requests (list): Method and path of each request.
        downloads (list): Names of the files that have been downloaded.
    """

    def __init__(self):
        self.repos, self.gated, self.private, self.requests = {}, set(), set(), []
        self.downloads = []
        self.commits = {}

    def sha(self, repo):
        """Commit of the main branch."""
        text = repr(sorted(self.repos[repo].items()))
        return hashlib.sha1(text.encode()).hexdigest()

    def files(self, repo, revision):
        """Files at a revision; None if there is no such revision."""
        if revision in ('main', self.sha(repo)):
            return self.repos[repo]
        return self.commits.get((repo, revision))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    hub: FakeHub

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f'{self.command} {path}')
        match = re.fullmatch(
            r'/api/models/([^/]+/[^/]+)(?:/(?:tree|revision)/(.+))?|'
            r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)',
            path,
        )
        if not match:
            return self.answer(404, {})
        repo, revision = match[1] or match[3], match[2] or match[4] or 'main'
        if repo not in self.hub.repos:
            return self.refuse('RepoNotFound')
        if repo in self.hub.gated:
            return self.refuse('GatedRepo')
        files = self.hub.files(repo, revision)
        if files is None:
            return self.refuse('RevisionNotFound')
        commit = self.hub.sha(repo) if revision == 'main' else revision
        if match[5]:
            return self.send_file(commit, files, match[5])
        if '/tree/' in path:
            return self.answer(200, [_entry(name, data) for name, data in sorted(files.items())])
        names = [dict(rfilename=name) for name in sorted(files)]
        return self.answer(200, dict(id=repo, sha=commit, siblings=names, tags=[]))

    def do_POST(self):
        path = unquote(self.path)
        self.hub.requests.append(f'POST {path}')
        body = self.rfile.read(int(self.headers['Content-Length']))
        if not self.headers.get('Authorization'):
            return self.refuse('RepoNotFound')
        lines = [json.loads(line) for line in body.splitlines() if line]
        if path == '/api/repos/create':
            [request] = lines
            repo = f'{request["organization"]}/{request["name"]}'
            status = 409 if repo in self.hub.repos else 200
            self.hub.repos.setdefault(repo, {'.gitattributes': b''})
            if request.get('visibility') == 'private' or request.get('private'):
                self.hub.private.add(repo)
            return self.answer(status, dict(url=f'{self.endpoint}/{repo}'))
        if path == '/api/validate-yaml':
            return self.answer(200, dict(errors=[], warnings=[]))
        match = re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit)/main', path)
        repo = match[1]
        if match[2] == 'preupload':
            modes = [
                dict(path=file['path'], uploadMode='regular', shouldIgnore=False)
                for file in lines[0]['files']
            ]
            return self.answer(200, dict(files=modes))
        for line in lines:
            if line['key'] == 'file':
                data = base64.b64decode(line['value']['content'])
                self.hub.repos[repo][line['value']['path']] = data
            elif line['key'] == 'deletedFile':
                del self.hub.repos[repo][line['value']['path']]
        sha = self.hub.sha(repo)
        url = f'{self.endpoint}/{repo}/commit/{sha}'
        return self.answer(200, dict(commitUrl=url, commitOid=sha, success=True))

    def send_file(self, commit, files, name):
        if name not in files:
            return self.refuse('EntryNotFound', commit)
        if self.command == 'GET':
            self.hub.downloads.append(name)
        etag = hashlib.sha1(files[name]).hexdigest()
        headers = {'ETag': f'"{etag}"', 'X-Repo-Commit': commit}
        return self.answer(200, files[name], headers)

    def refuse(self, code, commit=None):
        headers = {'X-Error-Code': code, 'X-Error-Message': code}
        if commit:
            headers['X-Repo-Commit'] = commit
        return self.answer(_ERRORS[code], dict(error=code), headers)

    def answer(self, status, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {'Content-Length': len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    @property
    def endpoint(self):
        host, port = self.server.server_address
        return f'http://{host}:{port}'


def _entry(name, data):
    digest = hashlib.sha1(data).hexdigest()
    return dict(type='file', path=name, size=len(data), oid=digest)


@contextlib.contextmanager
def fake_hub(monkeypatch, cache):
    """Serve a hub to huggingface_hub in this process, with ``cache`` as its cache."""
    hub = FakeHub()
    handler = type('Handler', (_Handler,), dict(hub=hub))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        constants = importlib.import_module('huggingface_hub.constants')  # an optional package
        endpoint = f'http://127.0.0.1:{server.server_address[1]}'
        template = endpoint + '/{repo_id}/resolve/{revision}/{filename}'
        monkeypatch.setattr(constants, 'ENDPOINT', endpoint)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        for module in ('hf_api', 'file_download'):  # copies of the constants, in old versions
            module = importlib.import_module(f'huggingface_hub.{module}')
            monkeypatch.setattr(module, 'ENDPOINT', endpoint, raising=False)
            monkeypatch.setattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE', template, raising=False)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(cache))
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
        monkeypatch.setenv('HF_HUB_DISABLE_TELEMETRY', '1')
        try:
            yield hub
        finally:
            server.shutdown()
