"""Wiring: the parts of activations and recoveries. Decides nothing."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from cloud.fabric.service.activations.admission import Admissions
from cloud.fabric.service.activations.approval import Approvals
from cloud.fabric.service.activations.entrances import CodeEntrance, RecoveryEntrance
from cloud.fabric.service.activations.recognition import Recognition
from cloud.fabric.service.activations.starts import ActivationStarts
from cloud.fabric.service.activations.with_tpm import Activations
from cloud.fabric.service.activations.without_tpm import SoftwareActivations
from cloud.fabric.service.nodes.chip_challenge import ChipChallenges
from cloud.fabric.service.nodes.clones import Clones
from cloud.fabric.service.nodes.lapse import Lapses
from cloud.fabric.service.nodes.limits import ActivationLimits, RecoveryLimits
from cloud.fabric.service.nodes.pcr_quotes import PcrQuotes
from cloud.fabric.service.nodes.replaced import ReplacedMachines
from cloud.fabric.service.nodes.silence import Silences
from cloud.fabric.service.recovery.cases import RecoveryCases
from cloud.fabric.service.recovery.claims import RecoveryClaims
from cloud.fabric.service.recovery.decisions import CaseDecisions
from cloud.fabric.service.recovery.refusals import RecoveryRefusals
from cloud.fabric.service.uptime import Uptime
from cloud.fabric.wiring.part_groups import Given
from cloud.tasks.bounded_log import BoundedLog


@dataclass(frozen=True, kw_only=True)
class ActivationParts:
    """Use cases of activations."""

    activations: Activations
    software_activations: SoftwareActivations
    approvals: Approvals


class Checks(NamedTuple):
    """Use cases that activations share with other exchanges."""

    chip_challenges: ChipChallenges
    pcr_quotes: PcrQuotes
    lapses: Lapses


@dataclass(frozen=True, kw_only=True)
class RecoveryParts:
    """Use cases of recoveries."""

    cases: RecoveryCases
    decisions: CaseDecisions
    claims: RecoveryClaims
    refusals: RecoveryRefusals
    replaced: ReplacedMachines
    silences: Silences
    uptime: Uptime


def make_recovery_parts(given: Given, clones: Clones) -> RecoveryParts:
    stores, ports, secrets, shared, _ = given
    now, transaction, audit, codes = ports.now, stores.transaction, shared.audit, shared.recovery_codes
    uptime = Uptime(
        now=now,
        transaction=transaction,
        installation=stores.installation,
        nodes=stores.nodes,
        tenants=stores.tenants,
        cases=stores.recovery_cases,
    )
    return RecoveryParts(
        cases=RecoveryCases(
            epoch=secrets.epoch,
            now=now,
            entropy=ports.entropy,
            audit=audit,
            activations=stores.activations,
            nodes=stores.nodes,
            cases=stores.recovery_cases,
            codes=codes,
            uptime=uptime,
        ),
        decisions=CaseDecisions(
            now=now,
            transaction=transaction,
            audit=audit,
            activations=stores.activations,
            nodes=stores.nodes,
            tenants=stores.tenants,
            cases=stores.recovery_cases,
            codes=stores.recovery_codes,
            rights=shared.rights,
            statement_stream=shared.statement_stream,
            wake_room=shared.wake_room,
            wake_background=shared.woken.set,
            troubles=BoundedLog(logging.getLogger("cascade.fabric.recovery"), now),
        ),
        claims=RecoveryClaims(signer=ports.signer, nodes=stores.nodes, tenants=stores.tenants, codes=codes),
        refusals=RecoveryRefusals(now=now, transaction=transaction, audit=audit, codes=codes),
        replaced=ReplacedMachines(
            trust_domain=ports.trust_domain,
            now=now,
            transaction=transaction,
            audit=audit,
            nodes=stores.nodes,
            cases=stores.recovery_cases,
            clones=clones,
        ),
        silences=Silences(
            trust_domain=ports.trust_domain,
            now=now,
            transaction=transaction,
            audit=audit,
            activations=stores.activations,
            nodes=stores.nodes,
            cases=stores.recovery_cases,
            uptime=uptime,
        ),
        uptime=uptime,
    )


def make_activation_parts(given: Given, checks: Checks, recovery: RecoveryParts) -> ActivationParts:
    """Make the use cases and connect them."""
    stores, ports, secrets, shared, _ = given
    approvals = Approvals(
        approve_within=ports.approve_within,
        now=ports.now,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        denied=stores.denied,
    )
    starts = ActivationStarts(
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        codes=stores.codes,
        denied=stores.denied,
        tenants=stores.tenants,
        rights=shared.rights,
        claims=recovery.claims,
        limits=ActivationLimits(ports.limits_factor),
        recovery_limits=RecoveryLimits(ports.limits_factor),
    )
    admissions = Admissions(
        confirm_within=ports.confirm_within,
        now=ports.now,
        entropy=ports.entropy,
        transaction=stores.transaction,
        audit=shared.audit,
        activations=stores.activations,
        nodes=stores.nodes,
        enrolled=stores.enrolled,
        rights=shared.rights,
        by_code=CodeEntrance(epoch=secrets.epoch, now=ports.now, codes=stores.codes, approvals=approvals),
        by_case=_by_case(given, approvals, recovery),
        issuer=ports.issuer,
        lapses=checks.lapses,
        replaced=recovery.replaced,
    )
    recognition = Recognition(nodes=stores.nodes, enrolled=stores.enrolled, cases=stores.recovery_cases)
    activations = Activations(
        now=ports.now,
        activations=stores.activations,
        nodes=stores.nodes,
        chip_challenges=checks.chip_challenges,
        pcr_quotes=checks.pcr_quotes,
        starts=starts,
        recognition=recognition,
        admissions=admissions,
    )
    software_activations = SoftwareActivations(
        entropy=ports.entropy,
        activations=stores.activations,
        nodes=stores.nodes,
        tenants=stores.tenants,
        chip_challenges=checks.chip_challenges,
        starts=starts,
        recognition=recognition,
        admissions=admissions,
    )
    return ActivationParts(activations=activations, software_activations=software_activations, approvals=approvals)


def _by_case(given: Given, approvals: Approvals, recovery: RecoveryParts) -> RecoveryEntrance:
    return RecoveryEntrance(
        now=given.ports.now,
        activations=given.stores.activations,
        approvals=approvals,
        cases=recovery.cases,
        silences=recovery.silences,
        refusals=recovery.refusals,
    )
