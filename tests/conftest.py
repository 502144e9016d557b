"""What every test shares: threads that sleep while they wait, so that the suite is quick on a busy machine too."""

from tokenworks.worker.environment import prepare_environment

prepare_environment()
