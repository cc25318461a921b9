"""The network and its LightningModule: metrics, optimizer, schedules."""
