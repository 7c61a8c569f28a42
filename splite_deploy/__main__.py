"""The program: ``splite-deploy`` and ``python -m splite_deploy``. Signals are taken before anything is imported."""

from splite_deploy import interruption


def main() -> None:
    """Runs the command line."""
    try:
        interruption.current.take()
        from splite_deploy.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        interruption.current.end()
    finally:
        interruption.current.let_go()


if __name__ == "__main__":
    main()
