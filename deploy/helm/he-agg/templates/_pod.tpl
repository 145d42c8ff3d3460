{{- define "he-agg.labels" -}}
app.kubernetes.io/name: he-agg
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* A pod of one container. Takes root, component, args. */}}
{{- define "he-agg.pod" -}}
{{- $values := .root.Values -}}
{{- $serves := eq .component "serve" -}}
{{- $data := ternary "/data" "/data/he-agg" $values.engines.enabled -}}
metadata:
  labels:
    {{- include "he-agg.labels" . | nindent 4 }}
spec:
  enableServiceLinks: false             # or a service named he-agg sets HE_AGG_PORT, a setting of ours
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 30
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch # Always would open aggregator.key to the group: then it is refused
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: he-agg
      image: "{{ $values.image.repository }}:{{ $values.image.tag | default .root.Chart.AppVersion }}"
      args: {{ toJson .args }}
      env:
        - {name: HE_AGG_DATA_DIR, value: {{ $data }}}
        - {name: HE_AGG_METRICS_PORT, value: "9471"}
        - {name: HE_AGG_METRICS_HOST, value: 0.0.0.0}
        - {name: XDG_CACHE_HOME, value: /tmp}
        {{- if $values.engines.enabled }}
        - {name: HE_AGG_PARTS, value: {{ $values.engines.parts | quote }}}
        {{- end }}
        {{- range $name, $value := $values.settings }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      {{- if $values.engines.enabled }}
      envFrom:
        - secretRef: {name: {{ $values.engines.secret }}}
      {{- end }}
      ports:
        {{- if $serves }}
        - {name: sites, containerPort: 8470}
        {{- end }}
        - {name: metrics, containerPort: 9471}
      {{- if $serves }}
      readinessProbe:
        httpGet: {path: /readyz, port: sites}
      livenessProbe:
        httpGet: {path: /healthz, port: sites}
        failureThreshold: 6
      {{- else }}
      livenessProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 60
        failureThreshold: 6
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        {{- if $values.engines.enabled }}
        - {name: key, mountPath: /data/aggregator.key, subPath: aggregator.key}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {}}
    {{- if $values.engines.enabled }}
    - {name: data, emptyDir: {}}
    - {name: key, secret: {secretName: {{ $values.engines.keySecret }}, defaultMode: 0440}} # root's, for the pod's group
    {{- end }}
{{- end -}}
