{{- define "imageloom.name" -}}
{{- if contains "imageloom" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-imageloom" (.Release.Name | trunc 30 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "imageloom.selector" -}}
app.kubernetes.io/name: imageloom
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "imageloom.labels" -}}
{{ include "imageloom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Whether the server of the engine redis is the chart's. */}}
{{- define "imageloom.ownServer" -}}
{{- if and (eq .Values.engine "redis") (not .Values.connect.address) (not .Values.connect.existingSecret) }}yes{{ end }}
{{- end }}

{{/* What cannot work together. */}}
{{- define "imageloom.check" -}}
{{- $given := or .Values.connect.address .Values.connect.existingSecret }}
{{- if and (has .Values.engine (list "dask" "ray")) (not $given) }}
{{- fail (printf "engine %s uses an existing cluster: give connect.address or connect.existingSecret" .Values.engine) }}
{{- end }}
{{- if and .Values.data.hostPath .Values.data.existingClaim }}
{{- fail "give data.hostPath or data.existingClaim, not both" }}
{{- end }}
{{- if and (eq .Values.autoscaling.by "keda") (not (include "imageloom.ownServer" .)) }}
{{- fail "autoscaling.by keda watches the chart's own Redis server: leave connect empty, with engine redis" }}
{{- end }}
{{- end }}

{{/* An image: by its tag, which who owns the registry may move, or by its digest, which names these very bytes. */}}
{{- define "imageloom.pinned" -}}
{{- $image := index . 0 }}
{{- with index . 1 }}{{ regexReplaceAll ":[^:/]+$" $image "" }}@{{ . }}{{ else }}{{ $image }}{{ end }}
{{- end }}

{{/* What every container may do, which is little. */}}
{{- define "imageloom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "imageloom.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The address of what there is to connect to, from a Secret where it has a password. */}}
{{- define "imageloom.connect" -}}
{{- if ne .Values.engine "serial" -}}
- name: IMAGELOOM_CONNECT
{{- if and .Values.connect.address (not .Values.connect.existingSecret) }}
  value: {{ .Values.connect.address | quote }}
{{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.connect.existingSecret | default (printf "%s-redis" (include "imageloom.name" .)) }}
      key: address
{{- end }}
{{- end }}
{{- end }}

{{/* The claim of the ledger; empty without one. */}}
{{- define "imageloom.claim" -}}
{{- if .Values.state.persistent }}{{ include "imageloom.name" . }}-state{{ end }}
{{- end }}

{{/* The spec of a pod of imageloom. Takes root, role, args, resources and restart; with claim, a place for the ledger. */}}
{{- define "imageloom.pod" -}}
{{- $values := .root.Values -}}
{{- $isService := eq .role "serve" -}}
{{- $args := .args -}}
{{- if not $isService }}{{ $args = concat $args (list "--health" (printf "0.0.0.0:%v" $values.health.port)) }}{{ end -}}
{{- $port := ternary "http" "health" $isService -}}
restartPolicy: {{ .restart }}
terminationGracePeriodSeconds: {{ $values.grace }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "imageloom.podSecurity" $values.user | nindent 2 }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ .role }}
    image: {{ include "imageloom.pinned" (list (printf "%s:%s" $values.image.repository ($values.image.tag | default .root.Chart.AppVersion)) $values.image.digest) }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args:
      {{- range $args }}
      - {{ . | quote }}
      {{- end }}
    env:
      - name: XDG_STATE_HOME
        value: /state
      {{- with include "imageloom.connect" .root }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $values.envFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - name: {{ $port }}
        containerPort: {{ ternary $values.serve.port $values.health.port $isService }}
    startupProbe:
      httpGet: {path: /health, port: {{ $port }}}
      periodSeconds: 2
      failureThreshold: 60
    livenessProbe:
      httpGet: {path: /health, port: {{ $port }}}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /ready, port: {{ $port }}}
      periodSeconds: 5
      timeoutSeconds: 5
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "imageloom.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: state, mountPath: /state}
      {{- if or $values.data.hostPath $values.data.existingClaim }}
      - {name: data, mountPath: /data}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: state
    {{- if .claim }}
    persistentVolumeClaim: {claimName: {{ .claim }}}
    {{- else }}
    emptyDir: {}
    {{- end }}
  {{- if $values.data.hostPath }}
  - name: data
    hostPath: {path: {{ $values.data.hostPath | quote }}, type: Directory}
  {{- else if $values.data.existingClaim }}
  - name: data
    persistentVolumeClaim: {claimName: {{ $values.data.existingClaim }}}
  {{- end }}
{{- end }}

{{/* What Prometheus looks for, and the user's own. */}}
{{- define "imageloom.annotations" -}}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ .Values.health.port | quote }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
