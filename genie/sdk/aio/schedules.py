"""A question asked again and again, from a program that awaits."""

from genie.sdk import schedules
from genie.sdk.aio.jobs import AsyncCloud
from genie.sdk.schedules import RunAnswer, ScheduleAnswer, ScheduleSteps


class AsyncSchedule(ScheduleSteps):
    """A question asked again and again; `Schedule` for programs that await."""

    def __init__(self, cloud: AsyncCloud, details: ScheduleAnswer) -> None:
        super().__init__(details)
        self._cloud = cloud

    async def refresh(self) -> "AsyncSchedule":
        """Ask the cloud how it is now; see `Schedule.refresh`."""
        await self._cloud.run(self._refreshing())
        return self

    async def runs(self) -> tuple[RunAnswer, ...]:
        """Its newest runs, newest first; see `Schedule.runs`."""
        return (await self.refresh()).details.runs

    async def run(self) -> RunAnswer:
        """Ask at once; see `Schedule.run`."""
        return await self._cloud.run(schedules.running(self._path))

    async def pause(self) -> "AsyncSchedule":
        """Start nothing until it is resumed; see `Schedule.pause`."""
        await self._cloud.run(self._changing("pause"))
        return self

    async def resume(self) -> "AsyncSchedule":
        """Go on with the next run from now; see `Schedule.resume`."""
        await self._cloud.run(self._changing("resume"))
        return self

    async def remove(self) -> None:
        """Delete it; see `Schedule.remove`."""
        await self._cloud.run(schedules.removing(self._path))
