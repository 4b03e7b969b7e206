"""What `genie demo` asks is made of files that ship with the package."""

from importlib import resources

from genie.cli import demo


def test_every_task_of_the_demo_has_text_and_names_a_file_that_is_there() -> None:
    found = demo.tasks()
    assert all(task.prompt.strip() for task in found)
    files = [task.title for task in found if task.title.startswith("genie/")]
    assert len(files) == 2
    package = resources.files("genie")
    assert all(package.joinpath(f.removeprefix("genie/")).is_file() for f in files)
