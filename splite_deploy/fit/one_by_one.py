"""Steps in this process, one after the other: for a machine without Ray."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Collection, Sequence

from splite_deploy.errors import SpliteError
from splite_deploy.fit.driver import Ended
from splite_deploy.fit.steps import Step
from splite_deploy.fit.store import Store
from splite_deploy.fit.work import Project, perform


class OneByOne:
    """See `splite_deploy.fit.driver.Workers`.

    Args:
        store: Has the inputs of steps.
        project: See `perform`.
    """

    def __init__(self, store: Store, project: Project) -> None:
        self._store, self._project = store, project
        self._steps: deque[Step] = deque()

    def submit(self, step: Step, avoid: Collection[str]) -> None:
        """See `Workers.submit`; there is no other machine."""
        self._steps.append(step)

    def wait(self) -> Sequence[Ended]:
        """Does the first step that was submitted."""
        step, node = self._steps.popleft(), platform.node()
        try:
            files = {name: self._store.content(sha256) for name, sha256 in step.inputs.items()}
            return [Ended(step, node, made=perform(step, self._project, files))]
        except SpliteError as err:
            return [Ended(step, node, error=err)]
