"""Several replicas of the logging service on one PostgreSQL: the overlay `scale`."""

from bentos.logging.settings import LoggingSettings
from tests.k8s.manifests import LOGGING, SCALE, environment, named, objects_of, rendered, workload
from tests.k8s.test_settings_of_manifests import settings_from

OBJECTS = rendered(SCALE)


def test_the_logging_service_is_a_deployment_that_an_autoscaler_owns() -> None:
    item = workload(LOGGING, OBJECTS)
    autoscaler = named("HorizontalPodAutoscaler", LOGGING, OBJECTS)["spec"]
    assert item.kind == "Deployment"
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": LOGGING,
    }
    assert 2 <= autoscaler["minReplicas"] < autoscaler["maxReplicas"]
    assert item.spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert {"serviceName", "updateStrategy"} & set(item.spec) == set()


def test_nothing_of_the_single_writer_is_left() -> None:
    assert not objects_of("PersistentVolumeClaim", OBJECTS)
    assert not objects_of("ValidatingAdmissionPolicy", OBJECTS)
    assert not objects_of("CronJob", OBJECTS)
    assert not objects_of("StatefulSet", OBJECTS)
    terms = workload(LOGGING, OBJECTS).pod["affinity"]["podAntiAffinity"]
    assert set(terms) == {"preferredDuringSchedulingIgnoredDuringExecution"}


def test_the_database_is_named_by_a_secret_and_the_settings_fit_it() -> None:
    """What is of a file alone is unset, or the service would refuse to start."""
    container = workload(LOGGING, OBJECTS).container
    (variable,) = container["env"]
    settings = settings_from(environment(container, OBJECTS), LoggingSettings)
    assert variable["name"] == "DATABASE_URL"
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "logging-database", "key": "url"}}
    assert settings.database_url is not None
    assert settings.max_database_bytes is None
    assert settings.drain_seconds >= 3
